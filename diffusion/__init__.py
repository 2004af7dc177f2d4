"""The core shared by the scripts: corruption, objective, denoiser, samplers and the one loop."""
