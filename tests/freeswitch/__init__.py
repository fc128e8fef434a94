"""On a real FreeSWITCH: see conftest."""
