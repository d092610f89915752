"""A page in the browser on which a run explains images; needs `gradio`, the extra `app`."""
