"""Tools around ComfyUI: they write the workflows, and start real servers. Not part of the pack."""
