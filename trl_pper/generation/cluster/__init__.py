"""Write programs on the GPUs of many machines, by a Ray cluster.

In reading order:

- `cluster_source`: `ClusterSource`, whose batches are written by copies of another source on the nodes
- `writers`: keep a writer on each GPU, refuse nodes that cannot write, leave lost ones
- `node`: the actor of a GPU: a source, and its answers

Importing these modules does not import Ray.
"""
