"""The paper's figures, drawn from the tables behind them; no statistics happen here."""
