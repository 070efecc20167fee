"""The text side: CLIP and Gemma-2 encoders, and which text row belongs to which word."""
