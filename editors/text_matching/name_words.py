"""Words of English (and some of German) that show whether a name goes on in the words beside it.

Each list is a class of words, in lower case. The lists hold what the capitals of a text cannot
show: which capitalised words are no part of a name, and which words make a longer name in any case.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Never part of a name beside it, even with a capital.
FUNCTION = _words("""
    a about above after again against ago all along already also although always am among an and any
    anyone anything april are around as ask at august away be because been before behind being below
    beneath beside besides between beyond both but by can could dear december despite did do does
    doing done down during each either else ever every except february few for friday from gave get
    give given go goes going got had has have having he hello her here hers hey hi him his how i if
    in inside into is it its january july june just know let like list look looking many march may
    maybe me might mine monday more most much must my name near need neither never no nobody none
    nor not nothing november now october of off often ok okay on once one only onto or other our
    ours out outside over own per please put quite rather really regarding said same saturday say
    says see september shall she should since so some someone something soon state still such sunday
    take tell than thank thanks that the their theirs them then there these they thing this those
    though through throughout thursday till to together too toward towards tried tuesday under
    unless unlike until up upon us use used versus very via want wants was we wednesday well went
    were what whatever when whenever where whereas wherever whether which whichever while who
    whoever whole whom whose why will with within without would write wrote yes yet you your yours
""")
# Function words that have no capital in the middle of a sentence, or of a name in it.
LOWER_IN_NAMES = _words("""
    are as at be because by can could did do does for from had has have how if in into is of on or
    should than that their this to was were what when where which who whom whose why with would your
""")

# These show that a text is German, where every noun has a capital.
GERMAN = _words("""
    aber als auch auf aus bei bis bitte das dem der des dort durch ein eine einem einen einer eines
    er es für gibt haben heißt ich ihr im ist kein keine kommt kostet können liegt mehr mir mit nach
    nenne nicht noch nur oder sag schon sein seine seit sich sie sind spricht um und uns unter viel
    viele vom von vor wann warum welche welchem welchen welcher welches wenn wer werden wie wird wo
    wurde wurden zu zum zur zwischen über
""")
# These show that it is English; words of both languages show neither.
ENGLISH = FUNCTION - _words("""
    a along also am an as ask do done in it me must no off on over so us will
""")

# At the start of a sentence, before a name: not part of it.
COMMON_FIRST = _words("""
    ah aha answer article as assuming breaking btw buy calculate called check choose compare
    compared complete confirm consider considering correct das de define der describe die display
    does een el ever exactly excluding explain fill find finish fix follow following fyi gli google
    guess help het hint hmm how's identify il imagine including info information la las le learn les
    let's lo lol los meet mention name note o oh ooh os pick points provide question quick quiz re
    recall remember remind repeat request respond search send share show since sorry spell suppose
    sure think topic translate trivia un una une update visit what's who's wow yo
""")
COMMON_ENDINGS = ("ing", "ed", "ly")

# Before a name, in any case: another name.
BEFORE = _words("""
    cape east eastern fort ft. lake micro miniature mount mt mt. neo north northeast northern
    northwest proto pseudo saint san santa santo south southeast southern southwest st st. ste. são
    toy west western
""")

# With "'s" before a name, in any case: another name.
GROUPS = _words("boy children girl kid ladies lady men women")

# Before a name that has no capital, in any case: another name.
BEFORE_NOUN = _words("""
    avian beach bovine canine dwarf equine feline mock pygmy sea underwater wheelchair
""")

# Before a name, where a capital or the lack of a determiner shows that they do not just describe.
DESCRIBES = _words("ancient big early great late little medieval modern new old young")
DETERMINERS = _words("""
    a an and another any as but each every her his how its my no one or our so some such that the
    their these this those too very what which your
""")

# Between the words of a name.
OF = _words("da das de del della des di do dos du of van von")
TO = _words("for from to")
TITLE_HEADS = _words("escape farewell introduction journey ode return study tribute welcome")
ARTICLES_AFTER_OF = _words("la las los the")

# Before a name with a capital, at the start of a sentence too.
OPENS = _words("""
    ac alternative black blue central classic digital fc federal fifth first fourth free golden
    grand greater green hms inner international last legacy lower mega mini national orthodox outer
    real red reform reformed rms royal second silver ss super third ultra united upper uss virtual
    visual white
""")

# After a name, in any case: another name.
AFTER = _words("""
    acetate airlines airways avenue beetle boulevard bromide burger butterfly cake carbide carbonate
    chloride crackers cyanide dioxide fluoride foundation gazette herald hydride hydroxide iodide jr
    junior memorial monoxide moth nitrate nitride orchestra oxide peroxide phosphate pie pizza
    qualifiers salad sandwich sauce shark soup sr street sulfate sulfide sulphate sulphide symphony
    syndrome times tribune wasp
""")
AFTER_TWO = frozenset(
    {"board game", "video game", "sign language", "national park", "repair kit", "add on"}
)

# Labels, if a colon follows.
LABELS = _words("a answer note q question reply response")

# "I" is no numeral after a name with one of the first before it; it may be before the others.
BEFORE_I = _words("about across and around at for from if in near that through to via when with")
AFTER_FIRST = _words("""
    and became born crowned did die died executed is married of reigned rule ruled was
""")

# After "the", after a name.
EPITHETS = _words("""
    apostle bad baptist bold builder confessor conqueror cruel elder evangelist fair fat good great
    hun impaler lionheart magnificent pious pooh short simple terrible wise younger
""")

# "... of NAME" with such a word before it, in any case: another name.
INSTITUTIONS = _words("bank battle bay duchess duke earl gulf isle siege treaty university")

# "... of NAME" with such a word before it, even with a capital, is about the name.
ABOUT = _words("""
    ambassador anthem area army author authority bishop capital cathedral census ceo chair chairman
    chairwoman chancellor chief citizens city coast constitution continent council country creator
    crown currency director east emperor empire empress end flag founder government governor head
    history inhabitants inventor kaiser king kingdom kings language languages leader map mayor
    members minister monarch money name nationality north official owner parliament part parts
    people pope population premier president price prime prince princess province publisher queen
    queens region religion republic ruler secretary senate shah south speaker state states sultan
    title tsar use user users value version west writer year
""")

# Before a family name: titles.
TITLES = _words("""
    actor actress author captain ceo chancellor colonel composer director dr general governor judge
    justice major mayor minister miss mr mrs ms novelist painter philosopher physicist poet premier
    president prof professor scientist senator sergeant singer writer
""")

# Before a hyphen: not part of a name.
PREFIXES = _words("""
    all anti cross ex former half inter intra mid multi non post pre pro self semi trans un
""")
# After a hyphen: what is said of a name, not part of it.
PARTICIPLES = _words("""
    backed based born bound controlled educated free friendly funded language led level like made
    only owned related speaking specific style themed trained wide
""")

# After a number: it counts these, so it is not part of the name before it.
UNITS = _words("""
    % am billion cm day days dollars euros hour hours hundred kg km letter letters meters metres
    miles million minute minutes mm month months o'clock people percent pieces pm pounds second
    seconds thousand times week weeks year years
""")

# Names that are words of a sentence, too: "us" is not the US.
COMMON = _words("""
    am an and are as at be but by can do for from had has have he her him his how if in is it its
    may me my no not of on or our out she so that the them they this to up us was we what when who
    will with you
""")
