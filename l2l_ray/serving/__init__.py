"""A finished run behind HTTP, without Ray: settings, checks, answers, page. Start at `api.make_app`."""
