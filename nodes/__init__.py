"""The five stages as ComfyUI nodes, one file each; the toy picture, and two nodes to compare with.

`memory`, `networks`, `progress` and `paths` are all that touches ComfyUI's insides; `compat` and
`sockets` use its node API; `batches`, `grids`, `parsing` and `previews` are plain functions.
"""
