"""Fit linear heads to a table of latents and score them; see `python tools/latent_heads.py --help`."""

from cfxai.cli.latent_heads import latent_heads

if __name__ == "__main__":
    latent_heads()
