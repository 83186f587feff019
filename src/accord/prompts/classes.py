"""Classes of words whose members can stand for each other: what a word is exchanged with when it is checked.

The classes are those of WordNet's upper levels, as far as pictures show them. A class holds common members: an exchange
has to be a plain word that every judge knows. A noun may be in several classes; the first one is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from accord.prompts import model, nouns

# the words of a class that come first are those that a noun of no known class is exchanged with
NOUNS: dict[str, str] = {
    "people": (
        "man, woman, boy, girl, child, baby, person, doctor, nurse, chef, soldier, dancer, farmer, firefighter, "
        "police officer, astronaut, king, queen, knight, wizard, witch, pirate, samurai, ninja, clown, teacher, "
        "student, artist, musician, painter, cowboy, viking, princess, prince, priest, monk, sailor, surfer, skier, "
        "skateboarder, cyclist, player, rider, angel, warrior, lady, gentleman, guy, kid, toddler, teenager, bride, "
        "groom, waiter, fisherman, hunter, detective, scientist, worker, builder, singer, guitarist, ballerina"
    ),
    "mammals": (
        "dog, cat, horse, cow, sheep, elephant, bear, zebra, giraffe, lion, tiger, rabbit, fox, wolf, deer, monkey, "
        "pig, goat, mouse, squirrel, kangaroo, koala, panda, polar bear, hippo, hippopotamus, rhino, rhinoceros, "
        "camel, donkey, gorilla, leopard, cheetah, raccoon, hedgehog, otter, beaver, bat, whale, dolphin, seal, "
        "walrus, puppy, kitten, lamb, calf, foal, corgi, poodle, bulldog, llama, alpaca, moose, buffalo, hamster, "
        "sloth, badger, antelope, ox, bull, pony, guinea pig"
    ),
    "birds": (
        "bird, eagle, owl, duck, chicken, penguin, parrot, swan, flamingo, peacock, crow, pigeon, seagull, rooster, "
        "goose, turkey, hawk, raven, sparrow, robin, toucan, pelican, stork, heron, hummingbird, ostrich, vulture, "
        "falcon, hen, dove, kingfisher, magpie, woodpecker, gull, cockatoo"
    ),
    "water animals and reptiles": (
        "fish, turtle, snake, frog, lizard, crocodile, shark, octopus, crab, lobster, jellyfish, starfish, goldfish, "
        "seahorse, tortoise, alligator, chameleon, gecko, toad, salamander, squid, shrimp, koi, clownfish, stingray"
    ),
    "insects": (
        "butterfly, bee, spider, ant, beetle, ladybug, dragonfly, snail, caterpillar, moth, fly, wasp, grasshopper, "
        "worm, scorpion, mosquito, bumblebee, firefly"
    ),
    "creatures": "dragon, unicorn, robot, dinosaur, monster, mermaid, ghost, alien, zombie, fairy, phoenix, griffin, "
    "troll, goblin, elf, dwarf, vampire, centaur, giant, android, skeleton, demon, yeti",
    "vehicles": (
        "car, truck, bus, train, bicycle, motorcycle, van, taxi, tractor, scooter, tram, bike, fire truck, ambulance, "
        "police car, race car, sports car, pickup truck, school bus, motorbike, carriage, cart, wagon, skateboard, "
        "tank, jeep, limousine, locomotive, moped, tricycle, trolley, bulldozer, forklift, sled, fire engine"
    ),
    "boats and aircraft": (
        "boat, ship, airplane, helicopter, sailboat, hot air balloon, rocket, plane, canoe, kayak, yacht, submarine, "
        "spaceship, ferry, drone, jet, glider, raft, gondola, airship, spacecraft, surfboard, cruise ship, rowboat"
    ),
    "furniture": (
        "chair, table, sofa, bed, bench, desk, couch, shelf, bookshelf, stool, cabinet, wardrobe, dresser, armchair, "
        "cupboard, drawer, nightstand, coffee table, rocking chair, crib, bookcase, ottoman, dining table, hammock"
    ),
    "fruit": (
        "apple, banana, orange, strawberry, lemon, pear, peach, grape, cherry, pineapple, watermelon, mango, "
        "blueberry, raspberry, kiwi, melon, lime, plum, coconut, pumpkin, avocado, pomegranate, fig, apricot"
    ),
    "vegetables": (
        "carrot, tomato, broccoli, potato, onion, cucumber, pepper, mushroom, cabbage, corn, lettuce, eggplant, "
        "cauliflower, garlic, radish, zucchini, spinach, celery, beetroot, bell pepper, turnip, pea, bean"
    ),
    "food": (
        "pizza, cake, sandwich, bread, hot dog, hamburger, donut, cheese, ice cream cone, egg, cookie, pie, "
        "pancake, burger, salad, "
        "soup, sushi, croissant, ice cream, cupcake, waffle, pasta, steak, bagel, muffin, taco, burrito, omelette, "
        "doughnut, baguette, chocolate, popcorn, noodle, sausage, pretzel, toast, rice, spaghetti, french fries"
    ),
    "drinks": "coffee, tea, milk, juice, beer, wine, water, lemonade, cocktail, smoothie, soda, champagne, latte, "
    "cappuccino, espresso, whiskey",
    "vessels": (
        "cup, bottle, bowl, vase, glass, plate, mug, jar, basket, bucket, box, teapot, pot, pan, kettle, can, barrel, "
        "wine glass, tray, pitcher, jug, flask, dish, saucer, crate, watering can, flowerpot, goblet, thermos, carton"
    ),
    "cutlery and tools": (
        "knife, fork, spoon, hammer, scissors, saw, axe, brush, pencil, pen, screwdriver, shovel, wrench, broom, "
        "paintbrush, toothbrush, comb, needle, ladder, drill, ruler, rake, chopsticks, spatula, magnifying glass, key, "
        "lock, rope, chain, nail, screw, pliers, stapler, hairbrush, hair drier, hair dryer, toothpick"
    ),
    "weapons": "sword, shield, bow, spear, gun, dagger, cannon, arrow, rifle, crossbow, pistol, katana, staff, wand",
    "clothes": (
        "hat, shirt, dress, coat, jacket, shoe, scarf, tie, glove, sweater, skirt, cap, helmet, boot, jeans, trousers, "
        "sock, suit, hoodie, crown, sunglasses, glasses, belt, t-shirt, robe, apron, vest, bow tie, sneaker, kimono, "
        "uniform, swimsuit, bikini, gown, beanie, turban, mask, cape, cloak, mitten, sandal, pajamas, shorts, beret, "
        "raincoat, necktie, top hat, cowboy hat, armor, watch, ring, necklace, bracelet, earring"
    ),
    "bags": "backpack, handbag, suitcase, bag, purse, wallet, briefcase, luggage, sack, pouch, tote bag, satchel",
    "devices": (
        "laptop, phone, computer, camera, television, keyboard, clock, lamp, radio, microphone, tv, cell phone, "
        "monitor, remote, speaker, tablet, headphones, telephone, smartphone, typewriter, printer, calculator, "
        "telescope, projector, alarm clock, candle, lantern, light bulb, flashlight, mouse, remote control, "
        "record player, gramophone, tv remote, computer mouse, computer keyboard, smartwatch, game controller"
    ),
    "appliances": "oven, refrigerator, microwave, toaster, stove, sink, washing machine, fridge, blender, dishwasher, "
    "bathtub, toilet, shower, fan, vacuum cleaner, heater, coffee machine, fireplace, air conditioner",
    "instruments": (
        "guitar, piano, violin, drum, trumpet, flute, saxophone, harp, cello, accordion, banjo, ukulele, harmonica, "
        "clarinet, tuba, trombone, xylophone, electric guitar, grand piano, drum kit, bagpipe, organ, tambourine"
    ),
    "toys and sport": (
        "ball, kite, balloon, doll, teddy bear, frisbee, baseball bat, tennis racket, puzzle, soccer ball, basketball, "
        "football, tennis ball, sports ball, snowboard, skis, beach ball, golf ball, toy, yo-yo, dice, chess piece, "
        "baseball, baseball glove, bowling ball, volleyball, hockey stick, golf club, dumbbell, rubber duck, toy car, "
        "stuffed animal, racket, trampoline, swing, slide, seesaw, roller skate, ice skate, trophy, medal"
    ),
    "paper things": "book, newspaper, letter, map, painting, photograph, poster, card, magazine, envelope, notebook, "
    "sign, calendar, postcard, flag, ticket, banner, scroll, picture, stamp, billboard, picture frame, chalkboard",
    "street things": (
        "traffic light, fire hydrant, stop sign, mailbox, bench, street lamp, parking meter, trash can, fence, gate, "
        "fountain, statue, telephone booth, phone booth, umbrella, barrel, streetlight, lamp post, traffic cone, pole, "
        "well, sundial, windmill, scarecrow, tent, garbage can, manhole, bell, anchor, wheel, tire"
    ),
    "buildings": (
        "house, church, castle, tower, barn, skyscraper, lighthouse, bridge, temple, cottage, hut, palace, cabin, "
        "building, pagoda, mosque, cathedral, factory, windmill, stadium, pyramid, treehouse, greenhouse, shed, "
        "mansion, hotel, fortress, gas station, apartment, skyscraper, igloo, farmhouse, ruin, tunnel, dam"
    ),
    "rooms": (
        "kitchen, bedroom, bathroom, living room, office, classroom, library, restaurant, cafe, bar, garage, gym, "
        "hallway, hospital, supermarket, museum, theater, workshop, attic, basement, dining room, shop, store, studio, "
        "bakery, laboratory, train station, airport, subway, market, throne room, cave"
    ),
    "land": (
        "beach, forest, mountain, desert, field, lake, river, ocean, city, street, park, garden, village, valley, "
        "hill, island, meadow, waterfall, road, jungle, sea, swamp, canyon, snow, harbor, farm, town, cliff, pond, "
        "glacier, volcano, savanna, countryside, playground, sidewalk, coast, shore, path, alley, highway, pasture, "
        "vineyard, orchard, square, plaza, courtyard, parking lot, pool, swimming pool, lawn, woods, wood, trail"
    ),
    "sky": "sun, moon, star, cloud, rainbow, sky, planet, lightning, comet, galaxy, earth, storm, sunset, sunrise, "
    "meteor, fog, mist, rain, aurora, nebula",
    "plants": (
        "tree, flower, rose, cactus, grass, bush, sunflower, tulip, palm tree, leaf, daisy, lily, fern, bamboo, plant, "
        "moss, ivy, pine tree, oak, orchid, lotus, vine, hedge, bonsai, dandelion, cherry tree, apple tree, bouquet, "
        "potted plant, log, branch, willow, maple tree, lavender, poppy, lotus flower, houseplant, seed, stump, petal"
    ),
    "parts of a body": "hand, face, eye, foot, arm, leg, head, mouth, nose, ear, hair, beard, wing, tail, horn, "
    "feather, finger, tooth, tongue, paw, claw, fur, neck, shoulder, knee, skull, heart, brain, mustache, antler",
    "parts of a building": "door, window, wall, roof, floor, stairs, balcony, chimney, ceiling, column, curtain, "
    "carpet, mirror, pillow, blanket, rug, staircase, arch, tile, pillar, porch, railing, doorway, towel, tablecloth",
    "matter": "rock, stone, sand, ice, fire, smoke, gold, diamond, crystal, coin, gem, pearl, shell, feather, bone, "
    "brick, pebble, flame, treasure chest, jewel, boulder, seashell, mud, dust, ash, "
    "ember, debris, rubble, puddle, bubble, snowflake, raindrop, firework",
    "shapes": "circle, square, triangle, cube, sphere, heart, star, cone, cylinder, pyramid, hexagon, rectangle, oval, "
    "diamond, spiral, cross, arrow, pentagon, line, dot, ring, crescent",
}

_ALIVE = ("people", "mammals", "birds", "water animals and reptiles", "insects", "creatures")
MATERIALS = (
    "wooden, metal, glass, plastic, stone, leather, paper, ceramic, golden, silver, marble, brick, concrete, rubber, "
    "cotton, woolen, silk, steel, copper, bronze, porcelain, denim, velvet, cardboard"
)

VERBS: dict[str, str] = {
    "postures": "sit, stand, lie, kneel, crouch, lean, sleep, hang, float, squat",
    "motions": "run, walk, jump, swim, fly, dance, climb, crawl, fall, dive, march, hop, roll, slide",
    "riding": "ride, drive, push, pull, chase, follow, lead, carry",
    "handling": "hold, carry, throw, catch, kick, lift, drop, hit, touch, hug, wave, paint, cut, open",
    "wearing": "wear, hold, carry",
    "mouths": "eat, drink, bite, lick, smell",
    "voices": "sing, shout, laugh, smile, cry, yawn, bark, howl",
    "looking": "watch, read, write, draw, play, cook, study, photograph",
}


def members(listed: str) -> tuple[str, ...]:
    """The words of a class."""
    return tuple(dict.fromkeys(word.strip() for word in listed.split(",")))


@lru_cache(maxsize=1)
def _class_of() -> dict[str, str]:
    found: dict[str, str] = {}
    for name, listed in NOUNS.items():
        for word in members(listed):
            found.setdefault(word, name)
    return found


def class_of_noun(noun: str) -> str | None:
    """The class of a noun in any number, by itself or else by its last word; None if unknown."""
    low = " ".join(noun.lower().split())
    known = _class_of()
    for text in dict.fromkeys((low, low.split()[-1] if low else low)):
        for word in (text, *singulars(text)):
            if word in known:
                return known[word]
    last = low.split()[-1] if low else low
    if nouns.is_person(last):
        return "people"
    return "mammals" if nouns.is_alive(last) else None


def is_compound(noun: str) -> bool:
    """Whether two words are known as one noun: "teddy bears"."""
    return " " in noun and any(text in _class_of() for text in (noun, *singulars(noun)))


def peers_of_noun(noun: str, most: int = 12) -> tuple[str, ...]:
    """Singular nouns that could stand where this one does: of its own class, else the first of every class."""
    low = " ".join(noun.lower().split())
    own = {low, *singulars(low)}
    name = class_of_noun(noun)
    others = tuple(members(listed)[0] for kind, listed in NOUNS.items() if kind not in _ALIVE)
    options = members(NOUNS[name]) if name else others
    return tuple(w for w in options if w not in own and not any(o.endswith(f" {w}") for o in own))[:most]


def peers_of_verb(verb: str) -> tuple[str, ...]:
    """Verbs of the same class in the same form ("sits" gives "stands"); none for a verb or a form that is not known."""
    forms = _forms()
    if verb.lower() not in forms:
        return ()
    name, form, own = forms[verb.lower()]
    return tuple(_INFLECTED[form](other) for other in members(VERBS[name]) if other != own)


def _s_form(verb: str) -> str:
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "x", "z", "ch", "sh", "o")) else "s")


def _ing_form(verb: str) -> str:
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb.endswith("e") and not verb.endswith("ee"):
        return verb[:-1] + "ing"
    return verb + (verb[-1] if verb in _DOUBLED else "") + "ing"


_DOUBLED = frozenset("sit run swim hop squat hit cut hug drop".split())
_INFLECTED: dict[str, Callable[[str], str]] = {"base": str, "s": _s_form, "ing": _ing_form}


@lru_cache(maxsize=1)
def _forms() -> dict[str, tuple[str, str, str]]:
    """Each form of each verb: its class, the name of the form, the verb."""
    found: dict[str, tuple[str, str, str]] = {}
    for name, listed in VERBS.items():
        for verb in members(listed):
            for form, inflected in _INFLECTED.items():
                found.setdefault(inflected(verb), (name, form, verb))
    return found


def singulars(noun: str) -> tuple[str, ...]:
    """What a noun could be the plural of, its first words kept: "fire trucks" gives "fire truck"."""
    *first, last = noun.split(" ")
    return tuple(" ".join([*first, word]) for word in model.classes(None).singulars(last))
