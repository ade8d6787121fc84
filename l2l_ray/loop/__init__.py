"""The closed loop that joins the rooms: prepare, label, train, evaluate, under whatever hosts it. No Ray here."""
