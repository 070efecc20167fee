"""Tests on a real ComfyUI server; skipped where COMFYUI_PATH and COMFY_PYTHON are not set."""
