"""Picture files, the canvas a model sees, and the way back to the picture's own pixels."""
