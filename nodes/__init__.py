"""The five stages as ComfyUI nodes, one file each, and the toy picture.

`memory`, `networks`, `progress` and `paths` are all that touches ComfyUI's insides; `compat` and
`sockets` use its node API; `batches`, `parsing` and `previews` are plain functions.
"""
