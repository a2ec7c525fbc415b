"""Ray's HTTP APIs over asyncio and aiohttp: submit a job once, watch it, take its log. No Airflow, no import of ray.

The modules import aiohttp only when a request is made, so that importing them costs next to nothing.
"""
