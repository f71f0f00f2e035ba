"""Why an endpoint failed: signatures, evidence, remedies that compute. Pure."""
