"""Looking inside: what the gates did, how the gradient flows, how training went; plots need ``lstmx[plot]``."""

from lstmx.inspect.flow import GradientFlow, gradient_flow
from lstmx.plots import plot_history, plot_trace

__all__ = ["GradientFlow", "gradient_flow", "plot_history", "plot_trace"]
