"""The smoke test: does an endpoint answer, and can it see?"""
