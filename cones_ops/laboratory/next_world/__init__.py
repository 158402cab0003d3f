"""How the next world's model is trained, judged and measured; nothing that the nodes need."""
