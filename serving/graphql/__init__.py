"""GraphQL at ``/graphql``: the questions of REST to the same :class:`serving.service.Service`, many in one request."""
