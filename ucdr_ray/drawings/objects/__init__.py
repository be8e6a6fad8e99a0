"""The object classes: each a function from a random generator to the parts of one object, back to front."""

from ucdr_ray.drawings.objects.animals import bird, butterfly, cat, fish
from ucdr_ray.drawings.objects.plants import cactus, flower, mushroom, tree
from ucdr_ray.drawings.objects.things import cup, guitar, house, umbrella
from ucdr_ray.drawings.objects.vehicles import airplane, bicycle, car, sailboat
from ucdr_ray.drawings.shapes import Maker

OBJECTS: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (
        airplane,
        bicycle,
        bird,
        butterfly,
        cactus,
        car,
        cat,
        cup,
        fish,
        flower,
        guitar,
        house,
        mushroom,
        sailboat,
        tree,
        umbrella,
    )
}
