"""Which rewards can be had together: mixed weights, by tilting and by the alternatives to it, on the same base."""
