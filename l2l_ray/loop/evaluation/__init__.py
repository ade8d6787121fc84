"""From predictions to figures: evaluation, breakdowns, hidden truth, panels, exports."""
