"""The word lists of the parser: what no library of English knows that prompts need. Data only.

Lists are blanks between words; `_` stands for a blank in a word of two parts.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(word.replace("_", " ") for word in text.split())


# --- attributes -----------------------------------------------------------------------------------------------------
COLORS = _words(
    "red orange yellow green blue purple pink brown black white gray grey cyan turquoise violet crimson golden gold "
    "silver beige magenta teal emerald navy maroon tan scarlet olive lavender coral lilac indigo ivory cream amber "
    "bronze copper ginger blond blonde khaki mauve fuchsia burgundy charcoal peach plum mustard mint salmon rust ruby "
    "sapphire azure aqua lime ochre sepia auburn vermilion chartreuse cerulean periwinkle taupe ecru"
)
SHADES = _words("light dark pale deep bright off rose sky hot forest baby royal neon pastel wine")  # beside a colour
SHADE_NOUNS = _words(  # beside a colour, and nouns elsewhere
    "midnight jet blood brick steel slate moss sea powder electric canary lemon apple ash bottle ink snow pearl candy "
    "cherry tomato grass ocean ice coal raven honey chocolate coffee wheat sand dusty burnt deep"
)
SIZES = _words(
    "big large huge giant gigantic enormous massive colossal immense oversized small little tiny mini miniature "
    "minuscule petite tall short"
)
MATERIALS = _words(
    "wooden wood metal metallic stone glass leather plastic paper brick bricks marble ceramic wool woolen woollen silk "
    "velvet denim bronze copper iron steel brass gold silver tin clay porcelain rubber straw wicker concrete cotton "
    "linen ice crystal jade bamboo cardboard felt chrome granite slate reed reeds aluminium aluminum satin lace suede "
    "terracotta papier-mache burlap canvas"
)
TEXTURES = _words(
    "striped dotted spotted checkered checked plaid polka-dot patterned furry fluffy fuzzy hairy woolly smooth rough "
    "shiny glossy matte rusty mossy wrinkled cracked bumpy spiky scaly feathery velvety silky knitted quilted woven "
    "polished glittering sparkly weathered"
)
ATTRIBUTES = COLORS | SIZES | MATERIALS
NOUN_COLORS = _words(  # nouns as often as colours
    "rose orange peach plum lime glass coral olive salmon ruby emerald sapphire stone brick crystal straw ginger "
    "lavender violet lilac mint mustard ice paper tin"
)
MATERIAL_NOUNS = MATERIALS - _words("wooden metallic woolen woollen ceramic")  # modifiers that stand as a noun

# a modifier and a noun that are together the name of another thing
NAMES_OF_TWO = _words(
    "hot_dog hot_dogs red_panda polar_bear white_house ice_cream orange_juice golden_retriever blue_whale black_hole "
    "gold_fish big_ben big_top great_wall brick_oven paper_clip tin_can tin_foil rubber_band rubber_stamp iron_man "
    "stone_age blue_jay black_tea green_tea giant_panda short_circuit cotton_candy cotton_ball straw_hat tan_line "
    "olive_tree olive_oil olive_branch plum_jam orange_peel ginger_root "
    "ginger_bread mustard_seed mint_leaf coral_reef salmon_fillet ice_skate ice_rink ice_cube ice_floe ice_bucket "
    "ice_skates ice_cubes lime_juice steel_drum silver_screen silver_medal gold_medal tall_ship brass_band big_wheel "
    "snow_leopard black_widow white_wine red_wine brown_bear black_bear grizzly_bear green_bean green_onion red_onion "
    "red_pepper green_pepper hot_pepper hot_tub hot_air hot_chocolate hot_sauce grand_piano black_panther blue_cheese "
    "gray_wolf grey_wolf great_dane white_shark great_white bald_eagle sweet_potato high_heels high_heel "
    "tin_soldier paper_plane paper_airplane little_finger small_talk pink_panther glass_eye cream_cheese peach_cobbler "
    "coral_snake brick_lane pale_ale red_carpet rose_bush rose_garden rose_petal rose_petals violet_bush amber_ale "
    "lavender_field lavender_fields mint_tea ginger_ale ginger_tea orange_slice orange_slices lime_slice lime_wedge"
)

FRUIT = _words(  # before a tree, a juice
    "plum peach lime olive lemon cherry apple pear lavender mint mustard coral salmon ginger rose coconut"
)
OF_FRUIT = _words("tree orchard blossom juice slice jam pie cake peel grove")

# --- numbers --------------------------------------------------------------------------------------------------------
NUMBERS = dict(
    zip(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty".split(),
        range(21),
        strict=True,
    )
)
NUMBERS |= dict(zip("thirty forty fifty sixty seventy eighty ninety".split(), range(30, 100, 10), strict=True))
NUMBERS |= {"hundred": 100, "thousand": 1000, "single": 1, "lone": 1, "solitary": 1}
FIXED = {"dozen": 12, "couple": 2, "pair": 2, "twin": 2, "duo": 2, "trio": 3, "quartet": 4, "quintet": 5}
VAGUE = _words(
    "few several some many various numerous countless multiple hundreds thousands dozens lots plenty any most all both "
    "assorted enough more"
)
AT_LEAST = (("at", "least"), ("more", "than"), ("no", "fewer", "than"), ("no", "less", "than"))
# before "of": how many there are of what follows, None where that is open; the word itself is no thing
COLLECTIVES: dict[str, int | None] = dict.fromkeys(
    _words(
        "group flock herd bunch pile crowd set collection swarm school team line cluster heap array series assortment "
        "number lot lots plenty dozens hundreds thousands pack pride variety gathering fleet army family litter gang "
        "circle mass pairs range selection handful scattering tangle troop band clump parade procession ring mob "
        "colony gaggle murder brood row rows groups piles flocks herds crowds clusters bunches heaps swarms teams"
    )
)
COLLECTIVES |= {
    **{"pair": 2, "pairs": 2, "couple": 2, "couples": 2, "duo": 2, "dozen": 12},
    **{"trio": 3, "trios": 3, "quartet": 4, "quintet": 5},
}
WORN_IN_PAIRS = _words(
    "skis shoes boots socks gloves mittens earrings sneakers sandals slippers heels chopsticks skates loafers moccasins"
)
WORN = _words(  # what somebody has on, or is made of
    "hair eyes eye beard hat coat dress shirt suit jacket scarf uniform gown cape boots shoes glasses apron sweater "
    "raincoat tuxedo waistcoat skirt armor armour helmet mustache moustache feathers fur fins tail wings horns ears "
    "face hands legs skin stripes spots sunglasses swimsuit swimsuits trunks pants jeans "
    "shorts backpack backpacks bag bags umbrella umbrellas gloves mask masks crown mane beak tongue paws "
    "mouth smile braids ponytail necklace earrings bow ribbon collar cap"
)
PAIRED = _words(  # plurals that are one thing
    "scissors glasses spectacles sunglasses eyeglasses goggles binoculars jeans pants trousers shorts tongs pliers "
    "tweezers shears leggings pajamas pyjamas tights headphones overalls clippers knickers slacks breeches dungarees "
    "briefs boxers earphones scales"
)
MASS = _words(
    "water snow sand grass moss beer tea milk coffee wine rain hair corn rice bread food smoke fog mist dust mud hay "
    "straw gravel sugar salt pepper flour butter cheese honey jam soup meat beef pork bacon ham fruit juice ice fire "
    "lava ink paint wood metal gold silver glass paper plastic leather cotton wool silk cloth clothing luggage "
    "furniture equipment machinery traffic seaweed foliage ivy vegetation graffiti litter trash garbage rubbish rust "
    "lightning thunder sunlight moonlight jewelry jewellery armor armour popcorn spaghetti pasta cereal oatmeal yogurt "
    "chocolate candy lemonade whiskey rum cider oil gasoline petrol soil dirt clay concrete fur blood sweat ketchup "
    "mustard mayonnaise cream syrup steam foam frost dew hail sleet wheat barley lettuce spinach cabbage garlic "
    "broccoli celery parsley basil cocoa chalk charcoal coal soap shampoo yarn thread money cash mail laundry "
    "algae plankton sushi ramen salad toast bamboo lace velvet fabric makeup lipstick confetti glitter tinsel "
    "embroidery underwear sportswear pottery cutlery silverware scenery greenery shrubbery undergrowth lumber "
    "timber firewood "
    "gunpowder sawdust frosting icing rainfall stubble plumage ash sunshine marble stone brick pizza lemonade "
    "champagne vinegar graffiti sunlight lava driftwood tea frosting gravy caramel vanilla batter dough"
)
UNCOUNTED = _words(  # never with "a"
    "water coffee tea milk juice beer wine lemonade champagne soda snow rain fog mist smoke sand grass hair fur ice "
    "bread rice cheese soup pasta spaghetti popcorn broccoli corn luggage furniture clothing money jewelry "
    "jewellery armor "
    "armour mud dust ash lightning moss ivy bamboo spinach garlic lettuce celery toast traffic butter sugar salt"
)
MASS_AFTER_OF = _words("rope string")  # "a coil of rope", but "the rope"
IRREGULAR_PLURALS = _words("people men women children feet teeth mice geese oxen clothes police cattle lice dice")
MANY_AS_ONE = _words(  # the same word for one and for many
    "sheep fish deer trout salmon moose bison swine aircraft spacecraft series species shrimp squid elk cod tuna koi "
    "hovercraft offspring herring mackerel carp haddock sturgeon crossroads"
)

# --- nouns that are no things ---------------------------------------------------------------------------------------
PARTS = _words(  # before "of": a part, a view or a kind of what follows
    "top side edge middle center centre bottom front back end rest piece kind type sort corner left right heart inside "
    "midst surface interior exterior view sight style form shape color colour size image depiction scene portrayal "
    "pieces slices slice bit bits middle_ground portion display cross-section closeup"
)
TIMES = _words(
    "night dawn dusk sunset sunrise noon midday midnight morning evening afternoon twilight day daytime nighttime "
    "hour winter summer spring autumn fall christmas today time moment nightfall daybreak yesterday tonight halloween"
)
NO_THINGS = _words(
    "background foreground distance middle center centre left right front back style colors colours color colour light "
    "lighting daylight view scene text word words letters lettering caption message midground composition frame "
    "perspective mood atmosphere way action motion bloom air something anything nothing everything other others place "
    "shape pattern patterns half underwater sight sunlight moonlight lamplight candlelight shade top bottom side "
    "detail details focus angle silence peace love flight kind sort type lot bit middle-ground quality resolution "
    "weather wind front-view "
    "side-view sides corners anyone nobody none somebody someone everyone title slogan phrase number row "
    "battle fight duel showdown horseback twenties thirties forties fifties sixties seventies eighties nineties "
    "outdoors indoors outside mid-air midair order need turn rest height size direction"
)
SEEN_IF_DENIED = _words("frame text border words letters lettering caption background shadow watermark logo title")
GROUNDS = _words("background backdrop")
THINGS_IN_A_COMPOUND = _words(  # no things alone, but as the last word of a compound ("traffic light")
    "light spring fall back scene lot bit center centre number place bloom shape side middle word day title phrase "
    "pattern front kind wind shade action top bottom weather rest frame row view"
)
SCENES = _words("scene view background setting")
POSITIONS = {
    **{"left": "left", "right": "right", "top": "top", "bottom": "bottom", "center": "center", "centre": "center"},
    **{"middle": "center", "foreground": "foreground", "background": "background", "distance": "background"},
}
SETTINGS = _words("in at inside within on through across along into by outside")
TEXT_NOUNS = _words(
    "text words word letters lettering caption message slogan title phrase inscription label name sign logo quote"
)

# --- style ----------------------------------------------------------------------------------------------------------
MEDIA = _words(
    "photo photograph picture image illustration painting drawing sketch render rendering portrait watercolor "
    "watercolour shot snapshot closeup close-up macro still poster artwork art depiction print engraving etching "
    "woodcut cartoon comic mosaic lithograph screenshot photography view fresco linocut selfie wallpaper icon logo "
    "sticker collage doodle concept design scene footage polaroid diagram clipart animation mural tapestry stencil "
    "rendition diorama editorial cutaway sheet blueprint schematic infographic storyboard turnaround x-ray panorama "
    "visualization visualisation lookbook spread pattern emblem"
)
MEDIUM_WORDS = _words(  # before the name of a medium
    "charcoal graphite oil ink pencil pen crayon chalk acrylic tempera digital line coloring colouring book "
    "fashion film "
    "movie game magazine product wedding street food travel wildlife nature macro drone aerial satellite security "
    "character model reference concept key splash cover album poster title vector clip stencil woodblock screen "
    "cross-stitch embroidery knitting quilt stained glass paper 3d cgi cel comic analog analogue instant candid studio "
    "glamour beauty stock press mugshot passport old antique hand-drawn handdrawn architectural technical botanical "
    "scientific medical anatomical exploded isometric"
)
SURFACES = _words("paper page canvas parchment vellum board cardstock sketchbook notebook plate")
MEDIA_THINGS = _words(  # what may also hang on a wall in the picture
    "painting drawing poster mosaic icon logo sticker still portrait photograph photo picture mural tapestry wallpaper "
    "fresco collage print selfie diagram engraving design comic cartoon sketch diorama sheet spread pattern emblem "
    "blueprint panorama"
)
MEDIA_STYLES = _words(  # before a medium or a thing they are style
    "realistic cinematic vintage digital fantasy epic minimalist surreal abstract cyberpunk steampunk impressionist "
    "anime manga pixel isometric low_poly vector black-and-white monochrome studio aerial ukiyo-e baroque gothic "
    "art_deco vaporwave retro photorealistic hyperrealistic watercolor 3d cartoon flat low poly film pencil ink oil "
    "acrylic chalk claymation stock macro wide close-up hd 8k 4k"
)
STYLE_ANYWHERE = (  # a tag with one of these is style, wherever in it they stand
    r"\b\d+ ?(?:mm|k|px|dpi|fps|p)\b|\b\d{2,3}[td]\b|"
    r"\bmultiple (?:girls|boys|views)\b|\bf ?/ ?\d|\biso ?\d+|\b1[5-9]\d\ds?\b|\b20\d\ds?\b|\d0s\b|"
    r"\b(?:u?hd|hdr|dslr|octane|v-?ray|"
    r"unreal|unity|blender|cinema ?4d|artstation|deviantart|pixiv|cgsociety|behance|trending|depth of field|"
    r"photo-?realis\w+|hyper-?realis\w+|volumetric|cinematic|bokeh|oil on \w+|rule of thirds|ray[- ]?tracing|"
    r"raytraced|global illumination|bird'?s[- ]eye view|worm'?s[- ]eye view|kodak|portra|nikon|canon|leica|"
    r"hasselblad|"
    r"fuji\w*|polaroid|lomo\w*|studio ghibli|ghibli|pixar|disney style|low[- ]poly|award[- ]winning|ukiyo-?e|"
    r"art nouveau|art deco|highly detailed|(?:ultra|hyper|super|extremely|very|insanely|finely)[- ]detailed|"
    r"long exposure|god rays|sun rays|light leaks?|light rays|looking at (?:the )?(?:viewer|camera)|full[- ]body|"
    r"upper[- ]body|caustics|refraction|anamorphic|tilt[- ]shift|double exposure|stop[- ]motion|fish-?eye|"
    r"subsurface scattering|chiaroscuro|sfumato|cel[- ]shad\w+|line ?art|knolling|claymation|wlop|rutkowski|artgerm|"
    r"mucha|beeple|makoto shinkai|ross tran|architectural digest|national geographic|vogue|magazine|hygge|"
    r"cottagecore|ray[- ]traced|die[- ]cut|sumi-?e|cross[- ]processed|mid-century|f\d+\.\d|sony|fujifilm|pentax|"
    r"olympus|"
    r"hokusai|caravaggio|monet|van gogh|picasso|dal[ií]|rembrandt|klimt|vermeer|miyazaki|moebius|giger|banksy|warhol|"
    r"scan ?lines|negative space|eye[- ]level|top[- ]down|(?:low|high|dutch|wide)[- ]angle|overhead (?:shot|"
    r"view)|rim[- ]?lit|soft[- ]?lit|back[- ]?lit|sharp focus|shallow focus|brush ?strokes?|brushwork|"
    r"impasto|matte painting|concept art|film still|vhs|motion blur|lens flare|chromatic aberration|"
    r"album cover|halftone|risograph|kodachrome|ektachrome|postcard|painterly|gritty|(?:over|under)exposed|"
    r"limited palette|game asset|\d+-?bit|sprite sheet|vignette|clean lines|sunbeams|wide[- ]angle|masterpiece)\b"
)
STYLE_LAST = (  # a tag that ends with one of these is style, unless its last word is the name of an object
    r"(?<!traffic )(?<!street )(?<!neon )(?<!stop )(?<!fairy )(?<!christmas )(?<!string )"
    r"(?<!warning )\b(?:lighting|light|lens|focus|exposure|"
    r"render|rendering|print|engine|quality|details?|detailed|resolution|photograph|photography|photo|illustration|"
    r"style|aesthetic|vibes?|artwork|art|shot|grain|palette|colou?rs?|composition|mood|atmosphere|background|angle|"
    r"view|painting|drawing|sketch|portrait|hour|wallpaper|glow|shadows|contrast|tones?|scheme|daylight|sunlight|"
    r"moonlight|lamplight|candlelight|backlight|rendered|lit|film|filter|effect|ambien[ct]e|realism|impressionism|"
    r"surrealism|minimalism|expressionism|cubism|watercolou?r|gouache|acrylics?|pastels?|engraving|etching|woodcut|"
    r"sketches|design|concept|masterpiece|blur|blurry|blurred|textures?|colou?red|close-?up|screenshot|poster|"
    r"wave|punk|core|linework|lines|strokes|pose|shading|border|varnish|seamless|processing|finish|lineart|"
    r"typography|hues|dof|still|animation|perspective|framing|feel|look|era|scan|grading|grade|palette)$"
)
STYLE_WORDS = _words(  # a tag that has nothing but these is style
    "matte storybook ornate candid documentary crayon woodblock studio softbox seamless oil lomography unfinished "
    "appetizing dynamic pose scale wide dusk processed modern liminal space commercial editorial stylized stylised "
    "lush opulent negative flat shading naive brooding sumi-e scanlines "
    "masterpiece intricate elegant epic beautiful stunning smooth realistic realism sharp minimalist minimalistic "
    "minimal macro surreal surrealist impressionist baroque gothic anime manga comic vector isometric monochrome sepia "
    "vibrant vivid dreamy ethereal moody ambient atmospheric symmetrical symmetry detailed highly ultra hyper very "
    "super extremely best high quality solo retro vintage vaporwave synthwave retrowave steampunk cyberpunk fantasy "
    "futuristic dramatic soft warm cold pixel cute hd uhd raw lofi lo-fi photographic photography illustration "
    "watercolor watercolour gouache sketch bloom glow film noir grainy grain abstract whimsical gorgeous professional "
    "colorful colourful dark bright nostalgic 3d art digital of the and fisheye highres absurdres cozy rustic serene "
    "tranquil peaceful mysterious romantic melancholic eerie spooky playful majestic hyperrealism photorealism "
    "hyperdetailed ultradetailed ultrarealistic charming aesthetic sfw uncensored artistic creative unique amazing "
    "fisheye chiaroscuro polaroid claymation bauhaus fauvism cubism cubist rococo renaissance brutalist pointillism "
    "outdoors indoors simple clean crisp muted faded flat textured depth focused backlit gloomy festive kawaii chibi "
    "telephoto halation sculpt cutaway turnaround storyboard sketchbook infrared duotone grayscale greyscale glitch "
    "dithered dithering pixelated toon scratchboard stippling crosshatching airbrush airbrushed daguerreotype tintype "
    "cyanotype medium format harsh flash lookbook trending popular featured contest winner graded grading grade "
    "outline outlines thick thin bold rough loose inked scan hyperreal photoreal textless"
)
NEGATIVE_STYLE = (  # what negative prompts hold that is no thing
    r"(?:bad|worst|low|lowres|ugly|deformed|extra|poor|poorly|jpeg|mutated|mutation|disfigured|nsfw|missing|fused|"
    r"duplicate|cropped|out of frame|error|normal quality|too many|gross|malformed|long neck|username|signature|"
    r"easynegative|ng_deepnegative|bad\w*|verybad\w*|unaesthetic\w*)\b.*"
)
NEGATIVE_ENDINGS = r".*(?:ed|y|ing|quality|lowres)"  # blurry, watermarked, overlapping
NEGATIVE_THINGS = frozenset(  # nouns that end as such words do
    "key lady baby boy toy monkey donkey turkey bunny puppy kitty pony city sky body berry cherry strawberry blueberry "
    "raspberry candy jelly honey money jersey hockey butterfly fly fairy teddy daisy lily ivy pansy jewelry pottery "
    "tray display spray bay highway railway subway doorway runway ferry army navy party country battery laundry "
    "library bakery factory trolley chimney valley curry pastry whiskey kidney cowboy cutlery embroidery balcony "
    "family cavity bed seed weed shed sled reed newlywed steed moped biped quadruped seaweed flowerbed "
    "ring king wing string swing building painting ceiling clothing earring wedding pudding icing sibling spring sling "
    "duckling herring awning railing lettering drawing stocking gosling sting darling dumpling topping seedling "
    "plaything".split()
)

# --- language -------------------------------------------------------------------------------------------------------
SCRIPTS = (  # first and last letter, language
    *(("぀", "ヿ", "ja"), ("가", "힣", "ko"), ("一", "鿿", "zh"), ("Ѐ", "ӿ", "ru"), ("؀", "ۿ", "ar")),
    *(("֐", "׿", "he"), ("Ͱ", "Ͽ", "el"), ("ऀ", "ॿ", "hi"), ("฀", "๿", "th")),
)
FUNCTION_WORDS = {  # of other languages, none of them English words
    "de": "der das ein eine einen einem einer und auf mit unter neben über hinter vor ist nicht ohne zwei drei dem den "
    "im zwischen",
    "fr": "une des les dans avec sur sous et du aux devant derrière sans est deux trois au le un",
    "es": "un una los las con sobre y debajo encima junto sin dos tres del en el cerca",
    "it": "uno gli con su sotto sopra accanto senza due tre della del dello il che di una un nel",
    "pt": "um uma os com sobre e ao em sem dois duas três da do na no atrás",
    "nl": "een het en op met onder naast achter zonder twee drie van voor",
    "sv": "en ett och på med under bredvid bakom utan två tre röd",
    "pl": "i na pod obok za bez dwa trzy z nad przed w",
    "tr": "bir ve üzerinde altında yanında iki üç ile",
}
ENGLISH_WORDS = _words(
    "a an the of on with and in at to is are by under over behind above below near next one two three four five his "
    "her its no without front photo from into as that"
)

# --- relations ------------------------------------------------------------------------------------------------------
_SIDE = r"(?:[- ]hand)?(?: side)?"
_NEARLY = r"(?:immediately |directly |just |slightly |far |right )?"
RELATIONS = (  # name and the phrases that say it, those that hold others first
    ("left", rf"{_NEARLY}(?:(?:to|on|at) (?:the|its) )?(?:far |very |immediate )?left{_SIDE} of"),
    ("right", rf"{_NEARLY}(?:(?:to|on|at) (?:the|its) )?(?:far |very |immediate )?right{_SIDE} of"),
    ("above", r"(?:on |at )?(?:the )?(?:very )?top of|on top of|atop(?: of)?|higher than"),
    ("below", r"(?:on|at|to) the (?:bottom|underside|foot|base) of|lower than"),
    ("front", r"(?:standing )?in (?:the )?front of|ahead of"),
    (
        "behind",
        r"(?:at|on|to|in) the (?:back|rear) of|in back of|"
        r"(?:partly |half |partially |mostly )?(?:hidden|obscured|concealed|blocked) (?:by|behind)|behind",
    ),
    (
        "near",
        r"(?:right |directly )?next to|close (?:to|by)|adjacent to|(?:on|at|by|to|along) (?:the |"
        r"a )?(?:\w+ )?side of|"
        r"side[- ]by[- ]side with|beside|besides|alongside(?: of)?|nearby|near(?: to)?|in the vicinity of|"
        r"not far from",
    ),
    ("inside", r"(?:on |at )?(?:the )?inside of|inside|within|in the inside of"),
    ("above", rf"(?:high )?{_NEARLY}(?:up )?above|over(?! \d)"),
    ("below", rf"{_NEARLY}(?:underneath|beneath|below|under)(?: of)?"),
    ("on", r"upon|onto|on"),
)
SIDES = r"(?:(?:to|on|at) (?:its|his|her|their) (?:immediate )?(?P<side>left|right)(?:[- ]hand)?(?: side)?)"
STAND_INS = {  # the preposition that spaCy reads for each
    **{"left": "beside", "right": "beside", "near": "beside", "front": "behind", "behind": "behind"},
    **{"above": "above", "below": "below", "inside": "inside", "on": "on", "not": "without", "made": "of"},
}
NOT = (
    r"(?:completely |totally )?(?:devoid|free|empty|bereft|void) of|lacking(?: in)?|lacks?|minus|sans|without|"
    r"instead of|rather than|(?<!with[ ])missing|in the absence of|except(?: for)?|but (?:with )?(?:no|not)\b|"
    r"(?:does|do|is|are)(?:n't| not) have|with no|and not|but not"
)
MADE = (
    r"(?:made|built|constructed|carved|woven|crafted|knitted|sculpted|formed|cast|fashioned|molded|moulded) "
    r"(?:entirely |completely )?(?:out of|of|from|in|up of)"
)

# --- repair of part-of-speech tags ----------------------------------------------------------------------------------
ING_NOUNS = _words(
    "building painting ceiling king ring string wing sling swing clothing lightning evening morning railing awning "
    "earring dumpling sibling wedding parking swimming drawing duckling gosling seedling herring pudding "
    "sewing washing fishing dining sleeping spring thing lighting icing stocking bowling serving cooking "
    "frying vending crossing "
    "landing opening rigging boxing racing writing shopping knitting sailing rowing hunting walking rocking frosting "
    "reading folding hiking riding skating boarding ironing mixing bedding stuffing sapling darling camping living "
    "cutting watering rolling"
)
NOT_NOUNS = _words(
    "together away up down high out outside outdoors indoors upside alone back there here still past apart around "
    "ahead inside overhead nearby mid-air midair underwater only just very so too also then while"
)
PREPOSITIONS = _words(
    "of in at with by from into through across against between among around along past toward towards during for to "
    "as like about amid amidst throughout off out outside beyond via onto amongst"
)
BE = _words("is are was were be been being 's 're isn't aren't")
PLACING = _words(  # verbs whose object is what a preposition after it is said of
    "put place hang lay set stack throw drop balance have contain show feature include depict see there be reveal "
    "display with hold_up build construct repair install hammer stir fry cook bake chop slice pin tie attach"
)
POINTING = _words("look gaze stare glance point smile bark wave shout peer laugh")
HANDLING = _words("holding wearing carrying hugging kissing throwing kicking eating drinking")  # at the start of a tag
WRITTEN_ON = _words(
    "sign billboard poster banner note label chalkboard blackboard whiteboard board book shirt t-shirt letter paper "
    "page plaque screen flag card badge sticker marquee placard menu cover newspaper envelope ticket mug cake tattoo "
    "storefront graffiti scroll sweater hoodie cap headline"
)
POSTURES = _words("lie sit stand sleep rest hang lean float perch swim walk run play fly dance eat wait look")
PERSONS = _words(
    "man woman boy girl child kid person lady gentleman guy king queen prince princess doctor nurse teacher chef cook "
    "baker pirate knight wizard witch farmer soldier sailor pilot dancer singer musician artist painter astronaut "
    "grandmother grandfather mother father brother sister son daughter grandson granddaughter bride groom student "
    "professor scientist chemist worker waiter waitress butcher tailor carpenter mechanic officer policeman "
    "policewoman firefighter fisherman cowboy monk nun priest clown ballerina skateboarder cyclist runner player "
    "baby toddler "
    "teenager tourist grandma grandpa actor actress magician samurai ninja geisha men women boys girls children people "
    "kids grandsons sons daughters teenagers tourists soldiers students workers dancers friends couple family"
)

# --- captions beside prompts ------------------------------------------------------------------------------------------
MEAN_THE_SAME = tuple(  # nouns
    map(
        _words,
        (
            "plane airplane aeroplane aircraft",
            "car automobile",
            "house home",
            "sofa couch",
            "bike bicycle",
            "motorcycle motorbike",
            "tv television tv_screen",
            "phone cell_phone cellphone mobile_phone smartphone telephone",
            "fridge refrigerator",
            "burger hamburger",
            "donut doughnut",
            "rabbit bunny",
            "mug cup",
            "photo photograph picture",
            "child kid",
            "cab taxi",
            "ship boat",
            "stone rock",
            "teddy_bear stuffed_bear",
            "hair_drier hair_dryer",
            "bag handbag purse",
            "parking_lot car_park",
        ),
    )
)
# a noun that stands for all of some classes (classes.py)
NAMES_OF_CLASSES: dict[str, tuple[str, ...]] = {
    "person": ("people",),
    "animal": ("mammals", "birds", "water animals and reptiles", "insects"),
    "bird": ("birds",),
    "vehicle": ("vehicles",),
    "fruit": ("fruit",),
    "vegetable": ("vegetables",),
    "building": ("buildings",),
}
SURROUNDINGS = _words(  # what a caption may name beside what was asked for, as land and rooms may be
    "ground floor wall sky grass water air background snow sand dirt pavement"
)
