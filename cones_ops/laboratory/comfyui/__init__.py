"""A real ComfyUI: where its checkout is, a server in a subprocess, workflow files as prompts."""
