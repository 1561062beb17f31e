"""Server and clients as processes of their own: nothing here is imported by who only simulates."""
