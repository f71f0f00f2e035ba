"""Why an endpoint failed or waits: signatures, evidence, remedies that compute. Pure."""
