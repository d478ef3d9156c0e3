"""The English styles of the generated web."""

from __future__ import annotations

from dsmath_jax.mining.generated_web_text import Style, words

_LECTURE = {
    "noun": words(
        "matrix, polynomial, eigenvalue, integral, derivative, subspace, determinant, sequence, "
        "limit, vector, kernel, gradient, divisor, coefficient, permutation, manifold, homomorphism"
    ),
    "adj": words(
        "continuous, symmetric, bounded, differentiable, invertible, linear, convergent, compact, "
        "orthogonal, prime, finite, injective, abelian, monotone"
    ),
    "verb": words("converges, vanishes, commutes, factors, diverges, is unique, is bounded"),
    "by": words(
        "by induction, by the chain rule, by linearity, by compactness, from the definition, "
        "after differentiation, by contradiction, integrating by parts"
    ),
    "set": words("ring, field, interval, group, basis, Hilbert space, neighbourhood, sphere"),
}

_LECTURE_PATTERNS = (
    "Let {f} denote the {adj} {noun} over a {set}.",
    "Every {adj} {noun} {verb}, {by}.",
    "We prove {f} {by}, so the {noun} {verb}.",
    "Suppose the {noun} is {adj}; then {f} holds on each {adj} {set}.",
    "Theorem {n}. A {noun} with {adj} {noun} {verb} whenever {f}.",
    "Hence {f}, and the {adj} {noun} {verb} {by}.",
    "Proof. Choose a {adj} {set} and compute the {noun}: {f}.",
    "This {noun} equals {f} if its {noun} is {adj}.",
    "Corollary {n}. No {adj} {set} contains a {adj} {noun}.",
    "Differentiating {f} shows that the {noun} {verb}.",
    "Conversely, {f} implies a {adj} {noun} {by}.",
    "Exercise {n}. Show {by} that {f} for any {adj} {noun}.",
)

ENGLISH: dict[str, Style] = {
    "lecture": Style(
        "en",
        _LECTURE_PATTERNS,
        (
            "Lecture {n}: the {adj} {noun}",
            "Notes on the {noun} of a {set}",
            "{adj} {noun}, week {n}",
        ),
        _LECTURE,
        formulas="algebra",
    ),
    "forum": Style(
        "en",
        (
            "How do I show that the {noun} {verb} when {f}?",
            "My attempt: {f}, but the {adj} {noun} seems wrong.",
            "Hint: apply {f} to a {adj} {set} and argue {by}.",
            "Is every {adj} {noun} {adj}, or is {f} needed?",
            "Answer: the {noun} is {adj} {by}, since {f}.",
            "Downvoted because {f} fails for a {adj} {noun}.",
            "Thanks, I missed that the {noun} {verb} {by}.",
            "Edit {n}: fixed the {noun}, it should read {f}.",
            "A counterexample with {adj} {noun}: take {f}.",
            "Can someone verify {f} for the {set} above?",
        ),
        ("Question about a {adj} {noun}", "When does the {noun} of a {set} vanish?"),
        _LECTURE,
        formulas="algebra",
    ),
    "encyclopedia": Style(
        "en",
        (
            "In mathematics, a {noun} is a {adj} {noun} for which {f}.",
            "It generalises the {noun} of a {set} to the {adj} case.",
            "The {adj} {noun} satisfies {f}, see the article on the {noun}.",
            "An equivalent definition of {adj} uses the {noun} {f}.",
            "Examples include each {adj} {set} and the {noun} {f}.",
            "Historically the {noun} arose {by} around 18{n}.",
            "Its {noun} {verb} if and only if {f}.",
            "Applications of the {adj} {noun} to a {set} use {f}.",
            "The identity {f} is proved {by}.",
        ),
        ("The {adj} {noun}", "{noun} of a {set}"),
        _LECTURE,
        formulas="algebra",
        extra="list",
    ),
    "worksheet": Style(
        "en",
        (
            "{who} packs {n} {thing} in {box} of {n}. Work it out: {f}.",
            "Colour {n} of the {thing} and write how many stay white: ____.",
            "Fill the gap, then check with a friend: {f}.",
            "Line up the {place} first and carry over: {f}.",
            "{who} shares {n} {thing} with {n} pals; tick the right {box}.",
            "Round {n} up, say it aloud, and draw the {place}: ____.",
            "Star task: {who} pays for {n} {thing} with coins.",
            "Cut out the {box}, glue the {thing}, write {f}.",
            "How long until {who} fills {n} {box}? Use your fingers or {place}.",
            "Homework: copy {f} twice and colour the {thing}.",
            "Grown-ups: praise {who} for neat {place}.",
        ),
        (
            "Practice sheet {n}: {thing} and {box}",
            "Year {n} homework: {place}",
            "{place}, sheet {n}",
        ),
        {
            "who": words("Nadia, Omar, Priya, Lucas, Hannah, Felix, Grandma, the baker, Coach Lee"),
            "thing": words(
                "apples, marbles, stickers, cupcakes, crayons, balloons, ribbons, shells, "
                "biscuits, tickets, seeds, buttons, pancakes, oranges"
            ),
            "box": words("boxes, baskets, rows, trays, jars, bags, plates, teams"),
            "place": words(
                "tens and ones, number lines, times tables, place cards, clock faces, halves and "
                "quarters, column sums, sharing circles, counting beads"
            ),
        },
        formulas="arithmetic",
        extra="table",
    ),
    "formal": Style(
        "en",
        (
            "The {tool} closes the {goal} once {name} is unfolded.",
            "Run {name} and then {tool} on the second {goal}.",
            "Here {name} takes an implicit {arg} and returns a {arg}.",
            "If {tool} times out, raise the heartbeat to {n}000.",
            "Rename {name} to {name} after the {library} refactor.",
            "The {goal} panel shows the {arg} in scope; hover over {name}.",
            "Port note: {library} dropped {name}, use {tool} instead.",
            "Import {library} before opening the {name} namespace.",
            "Instance search loops on {name} unless the {arg} is marked.",
            "Golfed from {n} lines to one with {tool}.",
        ),
        ("{library}: {name}", "{tool} reference", "Porting {name} to {library}"),
        {
            "tool": words(
                "simp, omega, linarith, aesop, rw, exact?, intro, rcases, norm_num, decide"
            ),
            "goal": words("goal, subgoal, hypothesis, context, metavariable, proof state"),
            "name": words(
                "add_comm_aux, mul_le_of, Nat.succ_pred, List.perm_iff, dvd_sub_self, "
                "le_antisymm_iff, Finset.card_filter, Int.emod_two, "
                "succ_inj, Set.mem_inter, mk_eq_zero, ofNat_lt"
            ),
            "arg": words("binder, typeclass, universe level, motive, coercion, instance argument"),
            "library": words("Stdlib, CoreProofs, Batteries, PureLib, Archive"),
        },
        extra="code",
    ),
    "cooking": Style(
        "en",
        (
            "Stir {n} grams of {food} into the {pan} until {state}.",
            "Bake the {food} for {n} minutes, then rest the {pan}.",
            "My {who} always adds {food} and a pinch of {food}.",
            "Share {n} {food} between {n} plates while {state}.",
            "Chop the {food}, fill two {pan}s and carry on.",
            "Serve {state}, with {food} on the side.",
            "Leftover {food} keeps {n} days in a jar.",
            "Preheat to 1{n} degrees and butter the {pan}.",
            "Swap the {food} for {food} if {who} is vegan.",
        ),
        ("{who}'s {food} with {food}", "{food} in {n} minutes"),
        {
            "food": words(
                "apples, onions, flour, garlic, cupcakes, biscuits, oranges, pancakes, basil, "
                "lentils, mushrooms, cinnamon, butter, tomatoes, noodles"
            ),
            "pan": words("pan, tray, bowl, pot, oven dish, wok"),
            "state": words("golden, soft, still warm, thick and glossy, bubbling, crisp"),
            "who": words("grandma, uncle Joe, the baker, my sister, Nadia, chef Marco"),
        },
        extra="list",
    ),
    "travel": Style(
        "en",
        (
            "The {ride} to {place} takes {n} minutes and costs {n} euros.",
            "Stay near the {sight}; rooms start at {n} a night.",
            "We walked {n} miles past the {sight} in {place}.",
            "Buy tickets for the {sight} online, the line is {mood}.",
            "{place} in spring is {mood}, bring a coat.",
            "From the {sight} catch a {ride} at half past {n}.",
            "Locals in {place} told us the {sight} is {mood}.",
            "Day {n}: {ride}, lunch, then the {mood} {sight}.",
        ),
        ("{n} hours in {place}", "{place} by {ride}", "Is the {sight} in {place} worth it?"),
        {
            "ride": words("ferry, night train, bus, tram, cable car, taxi, hire car"),
            "place": words(
                "Lisbon, Porto, Bergen, Hanoi, Kyoto, Tallinn, Cusco, Ghent, Split, Valletta"
            ),
            "sight": words("harbour, old town, castle, market, museum, beach, lighthouse, temple"),
            "mood": words("lovely, crowded, quiet, overpriced, magical, windy, free on Mondays"),
        },
    ),
    "sports": Style(
        "en",
        (
            "{team} beat {team} {n} to {n} after a {play} in minute {n}.",
            "{player} scored {n} points, {n} of them from {play}s.",
            "The coach praised {player} for {n} {play}s in {n} games.",
            "{team} average {n}.{n} per match, up {n} percent.",
            "With {n} minutes left {player} missed a {play}.",
            "Odds on {team} fell from {n} to {n} overnight.",
            "{player} leads the league with {n} {play}s.",
            "Half-time: {team} {n}, {team} {n}.",
        ),
        ("{team} {n}, {team} {n}", "{player} signs for {team}", "Week {n} in numbers"),
        {
            "team": words(
                "Rovers, United, Falcons, Bears, Wanderers, Comets, City, Rangers, Giants"
            ),
            "player": words("Okafor, Silva, Jensen, Murphy, Tanaka, Novak, Diallo, Reyes"),
            "play": words("penalty, free throw, corner, rebound, tackle, sprint, set piece"),
        },
        extra="table",
    ),
    "programming": Style(
        "en",
        (
            "Call {name} before {name}, or the {thing} leaks.",
            "The {thing} returns {n} when {name} times out.",
            "Install {tool} {n}.{n} and restart the {thing}.",
            "We moved {n}000 lines from {tool} to {tool}.",
            "Pass the {thing} to {name} and log each retry.",
            "A {thing} with {n} workers handles {n}00 requests.",
            "Hover over {name} to see the {thing} in scope.",
            "If {tool} fails, import {name} and open the namespace.",
        ),
        ("{tool}: fixing the {thing}", "Why {name} is slow", "{tool} {n}.{n} release notes"),
        {
            "name": words(
                "get_user, parse_args, flush_cache, open_socket, to_json, render, main_loop"
            ),
            "thing": words(
                "handler, queue, container, thread pool, index, session, instance, schema"
            ),
            "tool": words("Redis, Docker, npm, Postgres, Kafka, Flask, cargo, Webpack"),
        },
        extra="code",
    ),
    "shop": Style(
        "en",
        (
            "{item} with {n} inch {part}, {n} percent off today.",
            "Rated {n} by buyers: {praise}, says {n} reviews.",
            "Ships in {n} days, box of {n} {item}s.",
            "The {part} is {praise} and weighs {n} grams.",
            "Compare {item}s: {n} watts against {n}.",
            "Add the {item} to your basket and save {n}.",
            "Spare {part} for model {n}{n} in stock.",
        ),
        ("{item}, {n} pack", "Best {item}s under {n}", "{item} with {part}"),
        {
            "item": words(
                "kettle, backpack, phone case, lamp, drill, blender, tent, monitor, scarf"
            ),
            "part": words("battery, strap, handle, screen, zip, blade, cable, lid"),
            "praise": words(
                "sturdy, great value, too small, very quiet, lovely colour, easy to clean"
            ),
        },
        extra="table",
    ),
    "news": Style(
        "en",
        (
            "The {body} voted {n} to {n} on the {issue}.",
            "{who} told reporters the {issue} would cost {n} million.",
            "Some {n} residents met at the {place} about the {issue}.",
            "The {issue} reopens on the {n}th, the {body} said.",
            "{who} of the {body} denied the {issue}.",
            "Traffic near the {place} fell {n} percent after the {issue}.",
            "Volunteers cleaned the {place} for {n} hours.",
        ),
        ("{body} debates the {issue}", "{issue}: what we know", "At the {place}, {n} years on"),
        {
            "body": words(
                "council, school board, union, parliament, committee, students' association"
            ),
            "issue": words(
                "bus lane, budget, strike, new library, flood plan, parking fee, merger"
            ),
            "who": words("The mayor, A spokesperson, Dr Osei, Ms Lindqvist, The dean"),
            "place": words("station, town hall, campus, river bank, stadium, harbour"),
        },
    ),
}
