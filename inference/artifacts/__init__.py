"""Model files that travel: cut into chunks that are named by their content, fetched from whoever has them."""
