"""EditMGT for ComfyUI: the package that ComfyUI imports from its `custom_nodes` folder."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """The nodes; ComfyUI is first imported here, so that the package can be read without it."""
    from .nodes.extension import EditMGTExtension

    return EditMGTExtension()
