"""Judge programs on the CPUs of many machines, by a Ray cluster.

Ray starts processes on nodes, moves objects, and notices that a node is lost. The decision which node judges which
task, and everything about verdicts, is made here. In reading order:

- `judge`: `RayJudge`, a judge whose workers are on the nodes of a cluster, and the choice between it and a local judge
- `dispatcher`: hand jobs to nodes, and judge the programs of a lost node elsewhere
- `nodes`: keep an actor on each node, refuse unfit nodes, leave lost ones
- `node`: the actor of a node: a local judge, and the tasks that it has unpacked

Importing these modules does not import Ray.
"""
