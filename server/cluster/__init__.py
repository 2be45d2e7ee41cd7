"""Many servers on a cluster, behind one address."""
