"""Looking inside: what the gates did, how the gradient flows, what a score rests on; plots need matplotlib."""

from lstmx.inspect.attribution import Attribution, attribute
from lstmx.inspect.displays import GateDisplay, HalfLifeDisplay, MemoryDisplay, plot_trace
from lstmx.inspect.explain import Cause, Explanation, explain
from lstmx.inspect.flow import GradientFlow, gradient_flow
from lstmx.inspect.importance import PermutationImportance, permutation_importance
from lstmx.inspect.model_displays import AttributionDisplay, GradientFlowDisplay, WeightsDisplay
from lstmx.plots import plot_history
from lstmx.plots.diagram import cell_diagram
from lstmx.plots.report import report

__all__ = [
    "Attribution",
    "AttributionDisplay",
    "Cause",
    "Explanation",
    "GateDisplay",
    "GradientFlow",
    "GradientFlowDisplay",
    "HalfLifeDisplay",
    "MemoryDisplay",
    "PermutationImportance",
    "WeightsDisplay",
    "attribute",
    "cell_diagram",
    "explain",
    "gradient_flow",
    "permutation_importance",
    "plot_history",
    "plot_trace",
    "report",
]
