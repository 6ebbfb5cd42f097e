"""The papers' own networks, written anew from their descriptions on dicts of weights in the original layouts."""
