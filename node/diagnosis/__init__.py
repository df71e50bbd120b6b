"""What an operator asks before, during and after an incident: is the node fit (`doctor`), is the cluster well
(`health`), may this node stop (`stopping`), what do all nodes have to say (`bundle`)."""
