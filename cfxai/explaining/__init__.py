"""A trained run applied to one image of the user's: opened, explained, and given back in the image's own geometry."""
