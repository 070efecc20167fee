"""EditMGT: edit pictures by instruction with a masked generative transformer."""
