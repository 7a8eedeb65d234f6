"""Looking inside: what the gates did, how the gradient flows, what a score rests on; plots need matplotlib."""

from lstmx.inspect.attribution import Attribution, attribute
from lstmx.inspect.displays import GateDisplay, HalfLifeDisplay, MemoryDisplay, plot_trace
from lstmx.inspect.explain import Cause, Explanation, explain
from lstmx.inspect.flow import GradientFlow, gradient_flow
from lstmx.inspect.importance import PermutationImportance, permutation_importance
from lstmx.plots import plot_history
from lstmx.plots.diagram import cell_diagram

__all__ = [
    "Attribution",
    "Cause",
    "Explanation",
    "GateDisplay",
    "GradientFlow",
    "HalfLifeDisplay",
    "MemoryDisplay",
    "PermutationImportance",
    "attribute",
    "cell_diagram",
    "explain",
    "gradient_flow",
    "permutation_importance",
    "plot_history",
    "plot_trace",
]
