"""The five stages as ComfyUI nodes, one file each; a toy picture, and two nodes for comparisons.

Only `memory`, `networks`, `progress` and `paths` touch ComfyUI's internals; `compat` and `sockets`
use its node API; `batches`, `grids`, `parsing` and `previews` are plain functions.
"""
