"""Products: the catalogue, which is what there is to buy, under which name and at which price."""
