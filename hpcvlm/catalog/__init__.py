"""The catalog: model files to one ModelSpec."""
