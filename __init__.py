"""EditMGT for ComfyUI: the package that ComfyUI imports from its `custom_nodes` folder.

It defines no nodes yet. Whatever comes here must import without ComfyUI, under any folder name.
"""
