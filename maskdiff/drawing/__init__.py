"""From logits to a token: temperature, cuts, penalties, history, stopping rules, random numbers."""
