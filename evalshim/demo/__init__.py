"""The demo: an endpoint with a rule-based program behind it, and data made for it.

It lets a new user see a real run without a GPU. Nothing here is a model, and
nothing here may look an answer up.
"""
