"""Floor 2, right of the profile: rules that say what holds a forward pass back."""
