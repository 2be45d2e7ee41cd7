"""Pictures of the page, as README shows them."""
