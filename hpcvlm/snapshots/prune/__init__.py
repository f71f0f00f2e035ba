"""Deletes what nobody needs, in an order that is right wherever it stops."""
