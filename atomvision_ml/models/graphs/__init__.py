"""Networks on graphs: the graph operations behind one interface, their two backends, and the ALIGNN layers."""
