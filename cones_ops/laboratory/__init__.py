"""What measures the pack and makes its toy world; never shipped to ComfyUI users."""
