"""Actors of nodes that cannot judge: without a sandbox, with another version of the package, or with a broken one."""

from dataclasses import replace

from trl_pper.judge import levels
from trl_pper.judge.cluster.node import NodeJudge, NodeSettings, NodeState


class WeakNode(NodeJudge):
    """A node whose kernel knows no namespaces."""

    def start(self, settings: NodeSettings) -> NodeState:
        levels._known["namespaces"] = "this kernel has none"
        return super().start(settings)


class OldNode(NodeJudge):
    """A node with an old version of the package."""

    def start(self, settings: NodeSettings) -> NodeState:
        return replace(super().start(settings), version="0.0.1")


class BareNode(NodeJudge):
    """A node on which a module is missing."""

    def __init__(self) -> None:
        raise ModuleNotFoundError("No module named 'numpy'")
