"""Models and what makes them."""

from .layer import Input as Input
from .model import Model as Model
from .model import Sequential as Sequential
from .model import clone_model as clone_model
from .model import model_from_json as model_from_json
from .saving import load_model as load_model
from .saving import save_model as save_model
