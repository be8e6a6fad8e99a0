"""`ucdr ingest`: files of any of the known kinds to a catalog."""

import json
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from filelock import FileLock, Timeout

from ucdr_ray.catalog import WORK, Catalog, Manifest
from ucdr_ray.errors import JobError, UserError
from ucdr_ray.files import fingerprint, staged_folder, write_json
from ucdr_ray.images import DEFAULT_MAX_PIXELS
