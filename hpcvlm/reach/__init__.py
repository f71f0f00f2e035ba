"""How an endpoint is reached from elsewhere: a local relay, and ssh that is supervised."""
