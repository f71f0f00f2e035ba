"""From a request and what there is to one frozen plan. Pure."""
